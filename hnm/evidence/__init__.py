"""How good it is: evaluation, cross-validation, comparison."""
