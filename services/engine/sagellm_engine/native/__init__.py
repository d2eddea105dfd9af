"""Our CPU kernels: a C++ library with a plain C ABI, compiled for several instruction sets and chosen at run time."""
