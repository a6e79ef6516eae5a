"""Judge a candidate, promote it, roll back."""
