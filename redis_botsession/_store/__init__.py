"""The stores: what every store does, and a store that runs Redis commands on an executor."""
