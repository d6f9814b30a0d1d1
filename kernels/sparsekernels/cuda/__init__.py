"""CUDA C++ of ours, compiled at run time and launched through the driver: Hopper and later; elsewhere Triton serves."""
