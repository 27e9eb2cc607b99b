"""The operations that the networks are built from, each in the fastest form that a backend has."""
