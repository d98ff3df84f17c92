"""What this machine does in a second, and what the parts are worth; nothing here is timed in a test."""
