"""Where deliveries are kept. Each store imports values and protocols only."""
