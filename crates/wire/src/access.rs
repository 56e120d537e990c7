//! Who may enter: the user `default`, with or without a password.
//!
//! The engine keeps the password as an argon2 hash. Verifying one costs tens of milliseconds and
//! 19 MiB by design, so a digest of the last admitted password, keyed with bytes drawn at
//! start, admits the next request with the same one, and at most [`VERIFY_AT_ONCE`] slow
//! checks run at a time; others wait.
//!
//! Not here: rights of users, more users.

use argon2::Argon2;
use std::sync::Mutex;
use weir_base::{Error, Result, Rng, err};
use weir_engine::Users;

/// Slow password checks that run at a time.
const VERIFY_AT_ONCE: usize = 2;

/// The only user there is.
pub const DEFAULT_USER: &str = "default";

/// What a request says about who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub user: Option<String>,
    pub password: Option<String>,
}

/// The door keeper: asks the engine's users, and remembers the last password they took.
pub struct Access {
    users: Users,
    key: [u8; 32],
    last_admitted: Mutex<Option<[u8; 32]>>,
    checks: tokio::sync::Semaphore,
}

impl Access {
    pub fn new(users: Users, rng: &Rng) -> Access {
        let mut key = [0; 32];
        rng.fill(&mut key);
        Access {
            users,
            key,
            last_admitted: Mutex::new(None),
            checks: tokio::sync::Semaphore::new(VERIFY_AT_ONCE),
        }
    }

    /// The user's name.
    ///
    /// # Errors
    /// 516: unknown user or wrong password, without saying which.
    pub async fn admit(&self, asked: &Credentials) -> Result<String> {
        let user = asked.user.as_deref().filter(|u| !u.is_empty()).unwrap_or(DEFAULT_USER);
        let refused = || {
            err!(
                AuthenticationFailed,
                "user {user} was not admitted: no such user or a wrong password; give them by Basic, \
                 X-ClickHouse-User and X-ClickHouse-Key, x-timeplus-user and x-timeplus-key, or user= and password="
            )
        };
        if user != DEFAULT_USER {
            return Err(refused());
        }
        if !self.users.has_password() {
            return Ok(user.to_owned());
        }
        match asked.password.as_deref() {
            Some(given) if self.verify(given).await? => Ok(user.to_owned()),
            _ => Err(refused()),
        }
    }

    async fn verify(&self, given: &str) -> Result<bool> {
        let digest = self.digest(given)?;
        if *self.last_admitted.lock().expect("no panic holds this lock") == Some(digest) {
            return Ok(true);
        }
        let _one = self.checks.acquire().await.expect("the semaphore is never closed");
        let (users, given) = (self.users.clone(), given.to_owned());
        let admitted = tokio::task::spawn_blocking(move || users.authenticate(DEFAULT_USER, &given).is_ok())
            .await
            .map_err(|e| err!(LogicalError, "the password check broke off: {e}"))?;
        if admitted {
            *self.last_admitted.lock().expect("no panic holds this lock") = Some(digest);
        }
        Ok(admitted)
    }

    /// A fast keyed digest: argon2 with the least cost, so that no further hash is needed.
    fn digest(&self, given: &str) -> Result<[u8; 32]> {
        let cheap = argon2::Params::new(8, 1, 1, Some(32)).map_err(hash_failed)?;
        let mut out = [0; 32];
        Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap)
            .hash_password_into(given.as_bytes(), &self.key, &mut out)
            .map_err(hash_failed)?;
        Ok(out)
    }
}

fn hash_failed(e: impl std::fmt::Display) -> Error {
    err!(LogicalError, "could not hash the password: {e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: Option<&str>, password: Option<&str>) -> Credentials {
        Credentials { user: user.map(Into::into), password: password.map(Into::into) }
    }

    #[tokio::test]
    async fn who_gets_in() {
        let rng = Rng::seeded(1);
        let open = Access::new(Users::default(), &rng);
        let closed = Access::new(Users::with_password("s3cret", &rng).unwrap(), &rng);
        // (door, user, password, admitted)
        let cases = [
            (&open, None, None, true),
            (&open, Some("default"), Some("whatever"), true),
            (&open, Some("root"), None, false),
            (&closed, None, None, false),
            (&closed, Some("default"), Some("s3cret"), true),
            (&closed, None, Some("s3cret"), true),
            (&closed, Some(""), Some("s3cret"), true),
            (&closed, Some("default"), Some("S3cret"), false),
            (&closed, Some("default"), Some("s3cret"), true),
            (&closed, Some("root"), Some("s3cret"), false),
            (&closed, Some("default"), Some(""), false),
        ];
        for (door, user, password, expected) in cases {
            let got = door.admit(&asked(user, password)).await;
            assert_eq!(got.is_ok(), expected, "{user:?} {password:?} {got:?}");
        }
    }
}
