"""One folder per method. Recipes import the library; the library imports no recipe."""
