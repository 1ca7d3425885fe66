"""Models of real devices beside the targets: `python -m bench.spice DEVICES.json [--checker check_spice.py]`."""
