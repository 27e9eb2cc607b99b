"""Comparisons of methods over several seeds (`his4mae compare`): runs, tables and the paper's figures."""
