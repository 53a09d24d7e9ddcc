"""Servers, databases and a bad network, as fixtures."""

import os
import signal

from hypothesis import settings

# In CI the same examples every time, so that a red run speaks of the change; elsewhere new ones, which find more.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Who starts the tests in the background of a script lets them, and the programs they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["fix_postgres", "fix_proxy", "fix_marketplace", "fix_sqld", "fix_cloud"]
# Citus is in no package index: its tests are there for whoever has a coordinator.
collect_ignore = [] if os.environ.get("DBSCALE_CITUS_URL") else ["test_citus.py"]
