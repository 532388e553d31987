"""The proxy beside other proxies, on one machine and in one run: `python -m bench`, or `make bench`."""
