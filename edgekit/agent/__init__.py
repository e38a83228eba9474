"""The agent: what runs on the device. Imports stay light: hello goes out before numpy is loaded."""
