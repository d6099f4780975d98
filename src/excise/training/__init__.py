"""What trained methods share: adapters, data, objectives, the loop, localisation, calibration."""
