"""What conda-index takes from conda, which is no Python package: the order of versions and the list of subdirs."""
