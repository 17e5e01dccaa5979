"""Automatic differentiation over Tensors: backward, functional transformations, custom gradients, checkpointing."""
