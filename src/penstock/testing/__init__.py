"""
What we ship for tests: a throwaway Postgres, a workload, the oracle, faults.
"""
