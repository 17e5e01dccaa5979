"""What other libraries find on agog's objects: NumPy's protocols, the einops backend, HTML for notebooks."""
