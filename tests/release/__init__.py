"""The release: its conditions, its packages, and the manifests of Homebrew and winget."""
