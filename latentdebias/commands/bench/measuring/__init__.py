"""How benchmarks measure: times, memory, fresh processes, and the table of rows that each gives."""
