"""
The table of tasks.
"""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """
    Makes it.
    """

    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Task",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("title", models.CharField(max_length=200)),
                ("is_done", models.BooleanField(default=False)),
                ("is_public", models.BooleanField(default=True)),
            ],
        ),
    ]
