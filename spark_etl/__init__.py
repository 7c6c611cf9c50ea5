"""Audio ETL: recordings in, partitions of speech out."""
