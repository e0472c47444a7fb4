"""
Which files of tests take longest. They come first, so that at the end no process is left alone with one of them.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = (
    # Of the simulations and laws: ten seconds and more, in a run of `make test` on two processors.
    "test_pipeline_histories.py",
    "test_explorer.py",
    "test_power_cut_model.py",
    "test_compiled_twins.py",
    "test_stream_laws.py",
    # Of those on real servers: a quarter of a minute and more.
    "test_torture_faults.py",
    "test_service_kill.py",
    "test_service_oracle.py",
    "test_testing_guide.py",
    "test_service_stalls.py",
    "test_service_bad_input.py",
    "test_service_newest_postgres.py",
    "test_service_where.py",
    "test_service_damage.py",
    "test_service_positions.py",
    "test_django_live_example.py",
    "test_published_clients.py",
    "test_codegen.py",
    "test_rolling_deploy.py",
    "test_where_against_postgres.py",
    "test_following_commands.py",
    "test_service_slot_life.py",
    "test_schema_oracle.py",
    "test_service_recovery.py",
    "test_offsets_and_bodies.py",
    "test_client_in_browser.py",
    "test_service_extremes.py",
    "test_fastapi_react_example.py",
    "test_sqlalchemy_shapes.py",
    "test_demo_page.py",
    "test_model_guides.py",
    "test_typing_samples.py",
    "test_subsets_oracle.py",
    "test_django_shapes.py",
)
"""Names of files, the longest of each suite first. Nothing but the time of a run depends on it."""
