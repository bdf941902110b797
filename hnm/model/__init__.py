"""A trained model as one thing: exported, described, and used on new slides."""
