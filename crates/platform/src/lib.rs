//! The declared cluster: manifest, addresses, certificates, processes, regions and node groups.
