//! Who may come in.
//!
//! Not here: where a password was found in a request, rights of users (there is one).

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use weir_base::{Result, Rng, err};

/// The users there are: `default`, with or without a password.
#[derive(Debug, Clone, Default)]
pub struct Users {
    /// PHC text of an argon2 hash; `None` lets everyone in.
    password_hash: Option<String>,
}

impl Users {
    /// # Errors
    /// `BadArguments` (36) for a text that is no hash.
    pub fn with_hash(password_hash: String) -> Result<Self> {
        PasswordHash::new(&password_hash)
            .map_err(|e| err!(BadArguments, "the stored password hash can not be read: {e}"))?;
        Ok(Users { password_hash: Some(password_hash) })
    }

    /// # Errors
    /// `BadArguments` (36) for a password that can not be hashed.
    pub fn with_password(password: &str, rng: &Rng) -> Result<Self> {
        Ok(Users { password_hash: Some(hash(password, rng)?) })
    }

    pub fn has_password(&self) -> bool {
        self.password_hash.is_some()
    }

    /// Slow on purpose where there is a password (tens of milliseconds): call it off the
    /// network threads, and remember the answer for a connection.
    ///
    /// # Errors
    /// `UnknownUser` (192) or `AuthenticationFailed` (516).
    pub fn authenticate(&self, user: &str, password: &str) -> Result<()> {
        if user != "default" {
            return Err(err!(UnknownUser, "there is no user {user}; the user is default"));
        }
        let Some(stored) = &self.password_hash else { return Ok(()) };
        let stored = PasswordHash::new(stored).expect("checked when it was taken");
        match Argon2::default().verify_password(password.as_bytes(), &stored) {
            Ok(()) => Ok(()),
            Err(_) => Err(err!(AuthenticationFailed, "the password of user {user} is not right")),
        }
    }
}

/// The argon2 hash of a password, as PHC text.
pub fn hash(password: &str, rng: &Rng) -> Result<String> {
    let mut salt = [0; 16];
    rng.fill(&mut salt);
    let failed = |e: argon2::password_hash::Error| err!(BadArguments, "the password can not be hashed: {e}");
    let salt = SaltString::encode_b64(&salt).map_err(failed)?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt).map_err(failed)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_opens() {
        let users = Users::with_password("s3cret", &Rng::seeded(1)).unwrap();
        users.authenticate("default", "s3cret").unwrap();
        assert_eq!(users.authenticate("default", "").unwrap_err().code.number(), 516);
        assert_eq!(users.authenticate("root", "s3cret").unwrap_err().code.number(), 192);
        Users::default().authenticate("default", "anything").unwrap();
        assert!(Users::with_hash("plain".into()).is_err());
    }
}
