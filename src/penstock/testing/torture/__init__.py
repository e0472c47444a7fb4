"""
Trying the promise on a real database: real processes, real faults, and a table of what became of them.
"""
