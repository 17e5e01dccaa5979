"""Arrays underneath tensors: dtypes and their promotion, devices, memory, and the libraries that compute on them."""
