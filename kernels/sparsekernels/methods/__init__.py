"""How each method chooses: pure torch functions, the definition of every method (see `sparsekernels.parameters`)."""
