"""The codec: values of a session as bytes, and back, with their types."""

from ._codec.codec import DEFAULT_MAX_BYTES, Codec

__all__ = ["DEFAULT_MAX_BYTES", "Codec"]
