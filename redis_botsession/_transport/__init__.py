"""Gets commands to servers, and replies back."""
