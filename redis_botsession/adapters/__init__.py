"""Stores for bot frameworks: a module a framework, to be imported by itself, with the extra of the same name installed."""
