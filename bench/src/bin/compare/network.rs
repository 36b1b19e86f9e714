//! Owns the network of a comparison: a joiner, and sources that each have a link of their own to it. It never starts a
//! tool that is measured.

use std::net::Ipv4Addr;

use landfall_bench::netns::{Namespace, Rate};

/// A joiner's namespace and one for each source, each source on a link of its own.
pub(crate) struct Network {
    joiner: Namespace,
    links: Vec<Link>,
}

/// One source's end, and the pair that joins it to the joiner.
pub(crate) struct Link {
    pub(crate) source: Namespace,
    pub(crate) source_address: Ipv4Addr,
    interface: String,
}

/// What crossed all links since they were made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) to_joiner_bytes: u64,
    pub(crate) to_source_bytes: u64,
}

impl Traffic {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            to_joiner_bytes: self.to_joiner_bytes - earlier.to_joiner_bytes,
            to_source_bytes: self.to_source_bytes - earlier.to_source_bytes,
        }
    }
}

impl Network {
    /// Makes a joiner's namespace and `sources` others.
    pub(crate) fn create(sources: usize) -> anyhow::Result<Self> {
        let mut network = Self { joiner: Namespace::create("joiner")?, links: Vec::new() };
        for number in 0..sources {
            let link = Link::create(number, &network.joiner)?;
            network.links.push(link);
        }
        Ok(network)
    }

    pub(crate) fn joiner(&self) -> &Namespace {
        &self.joiner
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    /// Caps every link in both directions, or frees it.
    pub(crate) fn set_rate(&self, rate: Rate) -> anyhow::Result<()> {
        self.links.iter().try_for_each(|link| {
            link.source.set_rate(&link.interface, rate)?;
            self.joiner.set_rate(&link.interface, rate)
        })
    }

    /// The sum over all links.
    pub(crate) fn traffic(&self) -> anyhow::Result<Traffic> {
        let mut sum = Traffic::default();
        for link in &self.links {
            let carried = link.source.traffic(&link.interface)?;
            sum.to_joiner_bytes += carried.sent_bytes;
            sum.to_source_bytes += carried.received_bytes;
        }
        Ok(sum)
    }
}

impl Link {
    fn create(number: usize, joiner: &Namespace) -> anyhow::Result<Self> {
        let source = Namespace::create(&format!("source{number}"))?;
        let interface = format!("link{number}");
        let subnet = 10 + number as u8;
        let (source_address, joiner_address) = (Ipv4Addr::new(10, 77, subnet, 1), Ipv4Addr::new(10, 77, subnet, 2));
        source.join(joiner, &interface)?;
        source.bring_up(&interface, source_address)?;
        joiner.bring_up(&interface, joiner_address)?;
        Ok(Self { source, source_address, interface })
    }
}
