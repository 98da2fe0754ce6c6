"""Small shared helpers; each file one thing."""
