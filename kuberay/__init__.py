"""On-demand Ray clusters on Kubernetes (KubeRay 1.7) from Airflow: typed specs, a client, operators. Stands alone."""
