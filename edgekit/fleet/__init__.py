"""The fleet: collects, keeps and watches what every device reports, and sends orders to them."""
