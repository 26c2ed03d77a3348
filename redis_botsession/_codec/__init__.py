"""Values to bytes and back, with their types."""
