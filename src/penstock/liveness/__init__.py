"""
Suspicion and its consequences: the board of heartbeats, watching, explaining.
"""
