"""From a graph to native code. Nothing here imports llvmlite until something must be compiled."""
