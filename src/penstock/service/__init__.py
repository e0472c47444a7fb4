"""
Builds the whole and runs it: settings, wiring, supervisor. The only place that knows all parts.
"""
