//! What the clocks on the wall of this machine show: localtime_r(3).

use std::io;
use std::mem::MaybeUninit;

/// A moment in the time zone of this process (`TZ`, /etc/localtime).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Of the common era.
    pub year: i32,
    /// From 1.
    pub month: u8,
    /// Of the month, from 1.
    pub day: u8,
    /// From 0.
    pub hour: u8,
    /// From 0.
    pub minute: u8,
    /// From 0; 60 in a leap second.
    pub second: u8,
}

/// The local time of a moment, in seconds since 1970 in UTC.
pub fn at(seconds: i64) -> io::Result<LocalTime> {
    let mut broken_down = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: localtime_r needs a time to read and a `tm` to write, both are ours and live through the call. It reads
    // the environment for TZ: that races with a setenv of another thread, and this program never calls setenv.
    #[expect(unsafe_code, reason = "std knows no time zones")]
    let done = unsafe { libc::localtime_r(&raw const seconds, broken_down.as_mut_ptr()) };
    if done.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes zero is a valid `tm` (numbers and a pointer), whatever localtime_r has written over it.
    #[expect(unsafe_code, reason = "std knows no time zones")]
    let tm = unsafe { broken_down.assume_init() };
    let small = |value: libc::c_int| u8::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    Ok(LocalTime {
        // `tm_year` is an int that counts from 1900: localtime_r fails with EOVERFLOW before it could not be one.
        year: tm.tm_year.saturating_add(1900),
        month: small(tm.tm_mon + 1)?,
        day: small(tm.tm_mday)?,
        hour: small(tm.tm_hour)?,
        minute: small(tm.tm_min)?,
        second: small(tm.tm_sec)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_later_is_the_next_day_at_the_same_time() {
        // In January, where no zone changes its clocks; the zone of the machine is not known here.
        let (one, next) = (at(1_736_942_400).expect("a time"), at(1_736_942_400 + 86_400).expect("a time"));
        assert_eq!(next, LocalTime { day: one.day + 1, ..one });
        assert_eq!((one.year, one.month, one.second), (2025, 1, 0));
        assert!((14..=16).contains(&one.day), "{one:?}");
        at(i64::MAX).expect_err("no calendar goes that far");
    }
}
