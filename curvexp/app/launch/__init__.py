"""How the jobs of a sweep are run: one by one, as rows of one program, on a cluster."""
