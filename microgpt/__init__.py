"""microgpt: Karpathy's microgpt as explicit matrix code, with the kernels in C and the graph in Python."""

__version__ = "0.1.0"
