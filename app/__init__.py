"""In the checkout and the image only: the address that historic commands name."""
