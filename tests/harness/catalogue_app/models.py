"""
The catalogue's table as Django sees it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Mood(models.TextChoices):
    """
    A choice, which is a text for the database.
    """

    OPEN = "open", "Open"
    CLOSED = "closed", "Closed"


class Author(models.Model):
    """
    Of another table.
    """

    name: models.CharField[Any, Any] = models.CharField(max_length=20)


class Thing(models.Model):
    """
    A row of many types.
    """

    id: models.IntegerField[Any, Any] = models.IntegerField(primary_key=True)
    n: models.IntegerField[Any, Any] = models.IntegerField(null=True)
    small: models.SmallIntegerField[Any, Any] = models.SmallIntegerField(null=True)
    big: models.BigIntegerField[Any, Any] = models.BigIntegerField(null=True)
    price: models.DecimalField[Any, Any] = models.DecimalField(max_digits=12, decimal_places=3, null=True)
    ratio: models.FloatField[Any, Any] = models.FloatField(null=True)
    done: models.BooleanField[Any, Any] = models.BooleanField(null=True)
    title: models.TextField[Any, Any] = models.TextField(null=True)
    code: models.CharField[Any, Any] = models.CharField(max_length=10, choices=Mood.choices, null=True)
    day: models.DateField[Any, Any] = models.DateField(null=True)
    clock: models.TimeField[Any, Any] = models.TimeField(null=True)
    at: models.DateTimeField[Any, Any] = models.DateTimeField(null=True)
    span: models.DurationField[Any, Any] = models.DurationField(null=True)
    token: models.UUIDField[Any, Any] = models.UUIDField(null=True)
    raw: models.BinaryField[Any, Any] = models.BinaryField(null=True)
    tags: ArrayField[Any, Any] = ArrayField(models.TextField(), null=True)
    nums: ArrayField[Any, Any] = ArrayField(models.IntegerField(), null=True)
    doc: models.JSONField[Any, Any] = models.JSONField(null=True)

    class Meta:
        """
        The table is made elsewhere.
        """

        managed = False
        db_table = "catalogue_things"
        ordering: ClassVar = ["title"]


class Book(models.Model):
    """
    Has what is of two tables.
    """

    title: models.CharField[Any, Any] = models.CharField(max_length=50)
    author: models.ForeignKey[Any, Any] = models.ForeignKey(Author, models.CASCADE)


class Comic(Book):
    """
    Has its rows in two tables.
    """

    colours: models.IntegerField[Any, Any] = models.IntegerField()
