"""
What the integration suites share: a workload, the oracle, and a running service to be hurt.
"""
