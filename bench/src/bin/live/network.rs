//! Owns the network of a run: each member in a namespace of its own, on one link to the other members, whose rate is
//! capped and whose bytes are counted, and another to the clients. It never starts a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use landfall_bench::command::run;
use landfall_bench::netns::{Namespace, Rate, Traffic};

/// All members, a switch between them, and the clients.
pub(crate) struct Network {
    places: Vec<Place>,
    switch: Namespace,
    clients: Namespace,
}

/// Where one member runs.
pub(crate) struct Place {
    pub(crate) number: usize,
    pub(crate) namespace: Namespace,
    /// For other members.
    pub(crate) peer_address: SocketAddr,
    /// For clients.
    pub(crate) client_address: SocketAddr,
}

impl Network {
    pub(crate) fn create(members: usize) -> anyhow::Result<Self> {
        let switch = Namespace::create("switch")?;
        run(Command::new("ip").args(["-n", switch.name(), "link", "add", BRIDGE, "type", "bridge"]))?;
        run(Command::new("ip").args(["-n", switch.name(), "link", "set", BRIDGE, "up"]))?;
        let mut network = Self { places: Vec::new(), switch, clients: Namespace::create("clients")? };
        for number in 0..members {
            let place = network.create_place(number)?;
            network.places.push(place);
        }
        Ok(network)
    }

    fn create_place(&self, number: usize) -> anyhow::Result<Place> {
        let namespace = Namespace::create(&format!("member{number}"))?;
        let last = 1 + number as u8;
        let (peers, clients) = (peer_link(number), format!("clients{number}"));
        namespace.join(&self.switch, &peers)?;
        run(Command::new("ip").args(["-n", self.switch.name(), "link", "set", &peers, "master", BRIDGE, "up"]))?;
        let peer_address = Ipv4Addr::new(10, 77, 0, last);
        namespace.bring_up(&peers, peer_address)?;
        namespace.join(&self.clients, &clients)?;
        let client_address = Ipv4Addr::new(10, 78, last, 1);
        namespace.bring_up(&clients, client_address)?;
        self.clients.bring_up(&clients, Ipv4Addr::new(10, 78, last, 2))?;
        Ok(Place {
            number,
            namespace,
            peer_address: (peer_address, PEER_PORT).into(),
            client_address: (client_address, CLIENT_PORT).into(),
        })
    }

    pub(crate) fn place(&self, number: usize) -> &Place {
        &self.places[number]
    }

    pub(crate) fn clients(&self) -> &Namespace {
        &self.clients
    }

    /// Caps the links between members in both directions, or frees them. Clients' links are never capped.
    pub(crate) fn set_rate(&self, rate: Rate) -> anyhow::Result<()> {
        self.places.iter().try_for_each(|place| {
            let link = peer_link(place.number);
            place.namespace.set_rate(&link, rate)?;
            self.switch.set_rate(&link, rate)
        })
    }
}

impl Place {
    /// What crossed its link to the other members.
    pub(crate) fn traffic(&self) -> anyhow::Result<Traffic> {
        self.namespace.traffic(&peer_link(self.number))
    }
}

fn peer_link(number: usize) -> String {
    format!("peers{number}")
}

const BRIDGE: &str = "bridge";
pub(crate) const CLIENT_PORT: u16 = 6379;
const PEER_PORT: u16 = 7379;
