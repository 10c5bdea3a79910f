"""The costs of the proxy: CPU, memory and start-up, beside a direct call and a plain relay. See `bench/README.md`."""
