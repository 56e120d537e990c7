//! Messages of a consumer, many at a time, and with the offset at which a partition ends: of what the safe
//! interface gives one by one, and not at all.

#![allow(unsafe_code)]

use super::client::Told;
use rdkafka::ClientContext;
use rdkafka::bindings as rd;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// Events taken from librdkafka's queue at once.
const AT_ONCE: usize = 1_024;

/// The queue of a consumer.
pub(super) struct MessageQueue {
    queue: *mut rd::rd_kafka_queue_t,
    taken: Vec<*mut rd::rd_kafka_event_t>,
    /// Lives longer than its queue.
    consumer: Arc<BaseConsumer<Told>>,
}

// SAFETY: librdkafka's queues may be used from any thread, and this one is used from one at a time.
unsafe impl Send for MessageQueue {}

/// What came.
pub(super) enum Came<'a> {
    Message(RawMessage<'a>),
    /// Everything of a partition before this offset has come.
    End {
        partition: i32,
        offset: i64,
    },
    Error(RDKafkaErrorCode, String),
}

/// A message, valid until the next call.
pub(super) struct RawMessage<'a>(&'a rd::rd_kafka_message_t);

impl MessageQueue {
    pub fn new(consumer: Arc<BaseConsumer<Told>>) -> Self {
        // SAFETY: the client is alive; the reference that this gives is given back when dropped.
        let queue = unsafe { rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        MessageQueue { queue, taken: Vec::with_capacity(AT_ONCE), consumer }
    }

    /// Waits for something; then gives it and what else is at hand.
    pub fn take(&mut self, wait: Duration) -> impl Iterator<Item = Came<'_>> {
        self.release();
        let mut wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        while self.taken.len() < AT_ONCE {
            // SAFETY: the queue is alive; an event is ours until it is destroyed.
            let event = unsafe { rd::rd_kafka_queue_poll(self.queue, wait_ms) };
            if event.is_null() {
                break;
            }
            self.taken.push(event);
            wait_ms = 0;
        }
        let told = self.consumer.context();
        self.taken.iter().filter_map(move |event| came(*event, told))
    }

    fn release(&mut self) {
        for event in self.taken.drain(..) {
            // SAFETY: taken from the queue, and destroyed once.
            unsafe { rd::rd_kafka_event_destroy(event) };
        }
    }
}

/// What an event says; `None` for what is noted and no more.
fn came<'a>(event: *mut rd::rd_kafka_event_t, told: &Told) -> Option<Came<'a>> {
    // SAFETY: the event lives until the next call of `take`, and what it gives as long.
    unsafe {
        match rd::rd_kafka_event_type(event) {
            rd::RD_KAFKA_EVENT_FETCH => {
                rd::rd_kafka_event_message_next(event).as_ref().map(|m| Came::Message(RawMessage(m)))
            }
            rd::RD_KAFKA_EVENT_ERROR => {
                let error = rd::rd_kafka_event_error(event);
                if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF {
                    let place = rd::rd_kafka_event_topic_partition(event);
                    let end = place.as_ref().map(|p| Came::End { partition: p.partition, offset: p.offset });
                    rd::rd_kafka_topic_partition_destroy(place);
                    return end;
                }
                Some(Came::Error(error.into(), text(rd::rd_kafka_event_error_string(event))))
            }
            rd::RD_KAFKA_EVENT_LOG => {
                let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
                if rd::rd_kafka_event_log(event, &mut facility, &mut message, &mut level) == 0 {
                    // Syslog's numbers: 4 is a warning.
                    let level = if level <= 4 { RDKafkaLogLevel::Warning } else { RDKafkaLogLevel::Info };
                    told.log(level, &text(facility), &text(message));
                }
                None
            }
            _ => None,
        }
    }
}

/// SAFETY: null, or a C string of librdkafka.
unsafe fn text(at: *const std::ffi::c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().trim().to_owned()
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        self.release();
        // SAFETY: the reference of `new`.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) };
    }
}

/// SAFETY: bytes at a pointer of librdkafka that live as long as `'a`; null has none.
unsafe fn bytes<'a>(at: *const std::ffi::c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: see above.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) })
}

impl<'a> RawMessage<'a> {
    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// `None` = a tombstone.
    pub fn payload(&self) -> Option<&'a [u8]> {
        // SAFETY: of this message.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    pub fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: of this message.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// When it was written, milliseconds since the epoch; 0 = it does not say.
    pub fn time_ms(&self) -> i64 {
        // SAFETY: of this message; nobody asks for the kind of time.
        unsafe { rd::rd_kafka_message_timestamp(self.0, ptr::null_mut()) }.max(0)
    }

    /// Name and value of each header.
    pub fn for_each_header(&self, mut give: impl FnMut(&str, &[u8])) {
        let mut headers: *mut rd::rd_kafka_headers_t = ptr::null_mut();
        // SAFETY: headers belong to the message; name and value live as long as these.
        unsafe {
            if rd::rd_kafka_message_headers(self.0, &mut headers)
                != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return;
            }
            for i in 0.. {
                let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
                let got = rd::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut len);
                if got != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return;
                }
                give(&CStr::from_ptr(name).to_string_lossy(), bytes(value, len).unwrap_or_default());
            }
        }
    }
}
