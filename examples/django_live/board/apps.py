"""
The app.
"""

from django.apps import AppConfig


class BoardConfig(AppConfig):
    """
    The to-do list.
    """

    name = "board"
