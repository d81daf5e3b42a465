//! Finds the address of a network interface.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that `interface` names: an address itself, or the name of an interface, whose first
/// IPv4 address counts, or else its first IPv6 address.
pub(super) fn address_of(interface: &str) -> io::Result<IpAddr> {
    if let Ok(address) = interface.parse() {
        return Ok(address);
    }
    let mut names = Vec::new();
    let mut found: Vec<IpAddr> = Vec::new();
    for (name, address) in interfaces()? {
        if name == interface {
            found.push(address);
        }
        names.push(name);
    }
    found.sort_by_key(IpAddr::is_ipv6);
    names.sort();
    names.dedup();
    found.first().copied().ok_or_else(|| {
        let message = format!("no interface `{interface}` with an address; there are {}", names.join(", "));
        io::Error::new(io::ErrorKind::AddrNotAvailable, message)
    })
}

/// Name and address of each interface of this host.
fn interfaces() -> io::Result<Vec<(String, IpAddr)>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the result.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut next = list;
    // SAFETY: `next` is null or an entry of the list, which lives until `freeifaddrs`.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: the address is null or valid as long as its entry.
        let Some(address) = (unsafe { entry.ifa_addr.as_ref() }) else { continue };
        let address = match i32::from(address.sa_family) {
            libc::AF_INET => {
                // SAFETY: the family says that this is a `sockaddr_in`; it may be unaligned.
                let address: libc::sockaddr_in = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
                IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is a `sockaddr_in6`; it may be unaligned.
                let address: libc::sockaddr_in6 =
                    unsafe { entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
                IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
            }
            _ => continue,
        };
        // SAFETY: the name is a NUL-terminated string that lives as long as its entry.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        all.push((name.to_string_lossy().into_owned(), address));
    }
    // SAFETY: `list` comes from `getifaddrs`, and no reference into it is left.
    unsafe { libc::freeifaddrs(list) };
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_name_and_by_address() {
        assert_eq!(address_of("10.1.2.3").unwrap().to_string(), "10.1.2.3");
        assert!(address_of("lo").unwrap().is_loopback());
        let error = address_of("none0").unwrap_err().to_string();
        assert!(error.contains("no interface `none0`") && error.contains("lo"), "{error}");
    }
}
