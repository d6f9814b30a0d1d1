"""What sparse attention costs on this GPU, against dense in the same run: `frontier bench kernels`."""
