"""What the commands accept."""
