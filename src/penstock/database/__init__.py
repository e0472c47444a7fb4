"""
Ordinary SQL connections: catalog, publication, snapshots.
"""
