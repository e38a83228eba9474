"""The fleet's dashboard and its interfaces: pages, REST, metrics, and the bundles for devices."""
